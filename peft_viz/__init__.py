__version__ = "0.1.0"

from .api import HOME, MODULES, find, is_import


def __getattr__(name):
    "A public name or a module, imported when it is first asked for; see nbs/commands/04_api.ipynb."
    try:
        return find(name)
    except AttributeError as error:
        if is_import():
            raise ImportError(str(error), name=__name__, path=__file__) from None
        raise


def __dir__():
    return sorted({*globals(), *HOME, *MODULES})


__all__ = sorted(HOME)

from .views import viewer   # gives traces their HTML form; needs neither torch nor transformers
