__version__ = "0.1.0"

from . import viewer   # gives traces their HTML form; needs neither torch nor transformers
from .api import lazy

lazy(__name__)
