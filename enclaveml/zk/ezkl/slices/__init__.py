"""Models too large for one circuit, proved as linked slices (SLICES.md)."""
