"""Training methods: one small class for each row of Table 1, in a file of its own.

Vicinal risk minimization has four parts here: x̃ and ỹ, the pair drawn near an image and its label,
and g and h, which the generalized cross entropy H = -sum_k log g(f(x̃)_k) h(ỹ_k) applies to the
network's probabilities and to the label. A method's docstring says what its four parts are; its
mixer and attack make x̃ and ỹ, its loss contains g and h.

A new method is a new file in this folder with a class ``class Mine(Method, name="mine")``. The
keyword-only arguments of its ``__init__``, with their descriptions in the class docstring, become
options of the command line.
"""

from sprout_fast._lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
