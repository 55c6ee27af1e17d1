"""One run, top to bottom: the loop, what watches it, and how it ends and goes on.

`train` reads top to bottom: `beginning`, `data_check`, `model_setup`, `data_setup`, `loop_setup`, `trainer` and
`finishing`. It goes on by `resume` and `whole_checkpoints`; `watch`, `course` and `moved` see that nothing fails in
silence; `run_log` says each line; `evaluation_schedule` decides when held-out records are asked, and `evaluator` asks
them; `halved_batches` answers memory that ran out; DPO is `pair_trainer` with `pair_loss`.
"""
