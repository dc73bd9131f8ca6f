"""The kept images of one or several results in a browser: an index of them, one page, a server on loopback, a bundle.

All that is shown has an address: what stands behind the ``#``, written like the query of an address. Without one the
page shows pictures side by side.

=============  ====================================================================================================
``result``     name of the results, where there are several
``model``      id of a model
``attribute``  name of an attribute
``prompt``     a prompt
``seed``       a seed
``picture``    the picture that is open: the first 16 digits of its ``cell_id``
``compare``    ``models``, ``edits`` or ``results`` side by side; without it the windows of one model
``view``       ``pictures``: all of them, a page at a time: ``page``
``sort``       ``largest`` or ``smallest`` effect first
``from``       least effect; ``to``: largest
``size``       size of windows; ``start``: their first site; ``picked=yes``: only what the localizer picked
``control``    kind of picture; ``intervention``, ``edit``, ``role`` (of the prompt of an edit) likewise
=============  ====================================================================================================

So ``index.html#model=toy&attribute=style%2Flumio`` shows the pictures of a finding, and
``index.html#picture=0123456789abcdef`` one picture. What an address lacks is filled in.

A report is served as ``report/0.html?viewer=NAME`` (1 for the second results, and so on), both by the server and in a
bundle. Where its address says ``viewer``, it can lead back: the viewer is ``../index.html``, and its results are
``result=NAME``. The viewer leads to ``report/0.html?viewer=NAME#model=MODEL&attribute=ATTRIBUTE``, the address of a
finding in the same form.
"""
