from functools import partial

from peft_viz.api import submodule

__getattr__ = partial(submodule, __name__)
