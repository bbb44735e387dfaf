# CBAM at the paper's places: in every residual branch before the addition (figure 3), and before
# the predictors of SSD and StairNet; in no frozen stage (models/paper_places.py says why). It
# starts as the identity: docs/how_it_works/identity.md.
custom_imports = dict(imports=['cbam_det'])
plugins = [dict(cfg=dict(type='CBAM'))]
