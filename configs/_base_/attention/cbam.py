# CBAM at the paper's places (figure 3: in every residual branch, before the addition; in SSD and
# StairNet before the predictors). It changes nothing at the start: docs/how_it_works/identity.md.
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM'))]
