"""The ezkl proof system (halo2 over BN254, KZG). Only ``child.py`` imports ezkl."""
