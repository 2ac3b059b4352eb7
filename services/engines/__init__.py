"""Runtime engines, one service each, behind one interface (engine.py), one keeper and one servicer."""
