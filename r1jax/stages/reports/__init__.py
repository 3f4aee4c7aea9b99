"""What stages left in their folders, told: tables, figures, pages."""
