"""Train early-exit networks in nine ways and cache their logits: which model is to be deployed?"""
