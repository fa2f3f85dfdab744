"""Operations of a home: `up`, `status`, `doctor` and `prune`; the single checks of doctor are in `checks`.

What users see of them on the command line is in `cli`.
"""
