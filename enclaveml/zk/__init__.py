"""Proof systems behind one small interface: prepare, prove, verify (``interface.py``)."""
