"""File formats that several datasets come in: a dataset names its files and facts, the reading is here."""
