"""canopy_stats: how much a language model can say, and how fine-tuning changes it.

Importing the package imports neither torch nor matplotlib; each public name is loaded on first use. The names and
where they live stand once, in ``__init__.pyi``, which editors and type checkers read too.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *__all__]
