# 26 steps per epoch of about 0.6 s on two CPU cores; half the learning rate of the digits.
_base_ = './digits.py'
max_epochs = 16
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(T_max=max_epochs, end=max_epochs)
