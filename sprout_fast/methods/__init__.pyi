from .base import METHODS as METHODS
from .base import Method as Method
from .base import MethodSetting as MethodSetting
from .base import Optimize as Optimize
from .base import build_method as build_method
