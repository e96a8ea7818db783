"""What the files in the directory of a run are called: one writes them, others read them."""

SETTINGS_FILE = "config.json"
ENVIRONMENT_FILE = "environment.json"
IMAGES_FILE = "images.json"  # what the images of a run were like
METRICS_FILE = "metrics.jsonl"
SUMMARY_FILE = "summary.json"  # of a run that is complete
DIVERGED_FILE = "diverged.json"  # of one whose loss has left the finite numbers
UNREADABLE_FILE = "unreadable.json"  # at which image a run has stopped, and what it trained on
ENDS = (SUMMARY_FILE, DIVERGED_FILE)

CHECKPOINTS = "checkpoints"
PROFILE = "profile"  # the directory of what JAX's profiler writes
RESULTS = "eval"  # the directory of NAME.json of each evaluation
CONFUSION = "_confusion"  # added to NAME: its confusion of classes
NEIGHBOURS = "neighbours"  # a picture
