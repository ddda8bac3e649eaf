"""How each table and figure of the catalogue is made from a study's material."""
