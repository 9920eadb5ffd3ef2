"""What lies between the encoder and the heads: how much tasks share, one module per architecture.

All are token-wise: `module(task, states)` takes the states where a task has its targets, (targets, hidden), and returns
as many for its head. So a token-level task has a gate for each token, a sentence-level task one for [CLS], and nothing
is computed where nothing is predicted. Blocks begin as the identity, so at first the model is the one without them.

What belongs to a task (its experts, its gates) or to a family (its bottom) learns only from the losses of that task or
family. Another task may read it, and the gradient then passes through it, but leaves it as it is.
"""
