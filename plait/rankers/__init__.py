"""Rankers: DIN, DIEN, SIM, TWIN and RankMixer trained and tested like everything else."""
