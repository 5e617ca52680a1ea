"""Rankers: DIN, DIEN, SIM and TWIN trained and tested like everything else."""
