# Tools without life: what a tool is, names, results and how they are cut, confined files, search.
