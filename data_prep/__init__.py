"""Turn what people have (VQA files, tables, folders, hubs, phones) into LLaVA's human/gpt records, and check them.

It exists because most failed fine-tunes are lost in the data. It imports pictures and tables only, never torch.

    python -m data_prep --help
"""
