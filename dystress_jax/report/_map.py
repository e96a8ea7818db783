"""The map of images, which the page fills."""

from bokeh.models import (
    ColumnDataSource,
    HoverTool,
    LassoSelectTool,
    PanTool,
    Range1d,
    ResetTool,
    TapTool,
    WheelZoomTool,
)

from ._charts import BAD, Chart, plain

HOVER = """<div style="max-width: 180px"><img src="@picture" alt="" style="width: 96px;
image-rendering: pixelated; display: @display"><div>@label</div></div>"""


def map_of_images() -> Chart:
    """An empty map; the page fills it with the images of a run at a step."""
    columns = ("x", "y", "colour", "marker", "size", "picture", "display", "label")
    source = ColumnDataSource({name: [] for name in columns}, name="map")
    made = plain(
        x="",
        y="",
        height=480,
        x_range=Range1d(start=-1.08, end=1.08),
        y_range=Range1d(start=-1.08, end=1.08),
    )
    made.axis.visible = False
    made.grid.visible = False
    drawn = made.scatter(
        x="x",
        y="y",
        marker="marker",
        fill_color="colour",
        line_color="colour",
        fill_alpha=0.75,
        nonselection_alpha=0.2,
        size="size",
        source=source,
    )
    thumbs = ColumnDataSource({"x": [], "y": [], "picture": [], "alpha": []}, name="thumbs")
    made.image_url(
        url="picture",
        x="x",
        y="y",
        w=20,
        h=20,
        w_units="screen",
        h_units="screen",
        anchor="center",
        global_alpha="alpha",
        source=thumbs,
    )
    ring = ColumnDataSource({"x": [], "y": []}, name="anchor")
    made.scatter(x="x", y="y", size=20, fill_alpha=0, line_width=3, line_color=BAD, source=ring)
    lasso = LassoSelectTool(renderers=[drawn])
    hover = HoverTool(renderers=[drawn], tooltips=HOVER, limit=3)
    made.add_tools(hover, lasso, TapTool(renderers=[drawn]))
    made.add_tools(WheelZoomTool(), PanTool(), ResetTool())
    made.toolbar_location, made.toolbar.logo = "above", None
    made.toolbar.active_drag, made.toolbar.active_scroll = lasso, None
    about = (
        "A map of the images that the run watches: near each other is what the encoder takes for "
        "alike. The list of images and the tables below say the same in words."
    )
    return Chart("map", "Map of images", about, made)
