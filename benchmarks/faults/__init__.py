"""Faults made on purpose under real sweeps: nothing that has ended may be lost, or counted twice."""
