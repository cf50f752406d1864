"""Tests of `server/http`: who may call, and how they are served."""
