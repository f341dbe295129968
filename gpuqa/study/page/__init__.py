"""report.html: one file that needs neither network nor server.

`content` gathers what it shows as plain data. `document` puts that, the styles, the scripts and the texts of both languages
into one template.
"""
