"""What a third party would publish: a family, a scorer, a localizer and an editor, one file each.

Tests install copies of these files as a package of its own; nothing else knows of them.
"""
