"""An audit as people read it: as text, in a spreadsheet, as a page, and the data of all three."""
