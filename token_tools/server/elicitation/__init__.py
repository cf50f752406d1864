"""Asking a person over the protocol: `asking` asks for their yes to a change, `page_offer` offers a page after it.

The words are in `questions`. What a person has to agree to, and which plans wait for an answer, is in
`operations.consent`.
"""
