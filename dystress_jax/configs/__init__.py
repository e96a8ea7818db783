"""One experiment a module, each with `get_config()`; `dystress train --config=NAME` finds them."""
