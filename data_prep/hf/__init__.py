"""Data sets of the Hugging Face hub, local folders, parquet and arrow."""
