from .balls import BALLS as BALLS
from .base import ATTACKS as ATTACKS
from .base import Attack as Attack
from .losses import LOSSES as LOSSES
