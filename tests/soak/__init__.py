"""Random kills for as long as one likes."""
