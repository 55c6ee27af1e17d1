"""The same question asked of other programs, and what came back held against this model's own answer: the certificate.

`certify` is the command; an engine lives in an environment of its own (scripts/engines.sh) and is spoken to over HTTP
or through a file, so none of them is a requirement of this project.
"""
