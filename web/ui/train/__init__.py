"""The page's Train tab."""
