"""Procedural rooms: `material` (surfaces), `scene` (what stands where), `draw` (what the sensors see)."""
