"""Settings of the documentation site: `make docs` builds it into docs/_build/html."""

import cbam_det

project = 'cbam_det'
author = 'cbam_det contributors'
version = release = cbam_det.__version__
extensions = [
    'myst_nb',
    'sphinx.ext.autodoc',
    'sphinx.ext.autosummary',
    'sphinx.ext.napoleon',
    'sphinx_copybutton',
]
exclude_patterns = ['_build', '**/work_dirs']
nb_execution_mode = 'off'  # the tutorial is shown with the outputs of its file
html_theme = 'furo'
html_show_copyright = False
html_show_search_summary = False  # it is fetched, which browsers refuse for files on the disk
html_title = f'cbam_det {release}'
templates_path = ['_templates']

myst_enable_extensions = ['attrs_inline', 'colon_fence', 'dollarmath']
myst_heading_anchors = 3

autosummary_generate = True
autodoc_default_options = {'members': True, 'member-order': 'bysource', 'show-inheritance': True}
autodoc_preserve_defaults = True
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
default_role = 'code'  # docstrings write `name`
napoleon_use_rtype = False
napoleon_use_ivar = True
copybutton_prompt_text = '$ '
