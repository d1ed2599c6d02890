from ..api import lazy

lazy(__name__, {})   # its modules are imported when they are asked for
