"""One command to ranks on one or many machines, and why they ended.

`launch` reads `launch_request`, works out `batches`, looks at the machine (`preflight`), starts ranks (`starter`,
`processes`) and starts them again in smaller batches where memory ran out (`relaunch`).
"""
