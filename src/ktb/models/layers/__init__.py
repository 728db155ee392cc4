"""What several parts of the model need.

Attention has one plain form beside the method, in `ktb.models.backbones.swin` (windows) and `ktb.models.fusion.dscf`
(sampling points), and fast ones here: `window_fast`, which chooses `window_padded` where that is faster, and
`dscf_fast`, which chooses `dscf_triton` where `dscf_device` says so. `plain_or_fast` switches between plain and fast.
`dscf_blocks` is a form for exported files.
"""
