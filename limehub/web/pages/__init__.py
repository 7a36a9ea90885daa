"""The pages for people, at `/`: rendered here, readable without JavaScript.

routes (who is asked what) -> desk, live -> overview, letters, plugins: values to show (pure)
-> templates            static: our style and script, and what is vendored with its licence
"""
