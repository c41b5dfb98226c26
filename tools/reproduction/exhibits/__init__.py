"""The paper's tables and figures, registered in ``base.EXHIBITS``."""
