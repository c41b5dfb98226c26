"""The HTML report of an evaluation: verdict, audit, tables, figures and gallery."""
