"""Pages that open without network: a verdict in words, charts, and the tables that tell the same with scripts off."""
