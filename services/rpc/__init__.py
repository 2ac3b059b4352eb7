"""How services serve and call: one way each. Knows no domain."""
