"""Asking a person over the protocol before a change that needs their consent: `asking` asks, `questions` has the words.

What a person has to agree to, and which plans wait for an answer, is in `operations.consent`.
"""
