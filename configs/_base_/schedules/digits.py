# 5 epochs of 1,000 images in batches of 4: 1,250 steps, about 7 minutes on two CPU cores.
_base_ = './cosine.py'
randomness = dict(seed=0)
train_cfg = dict(val_interval=3)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.05, fused=True)
)
