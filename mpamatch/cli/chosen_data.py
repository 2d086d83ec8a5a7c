"""What a command's option may name as a data set; apart from the openers, so that ``--help`` loads no image library."""

HELP = "A data set by name, instead of folders: glas, ebhi, ebhi-gland, ebhi-cancer, crag, kpis, phantom or folder."
