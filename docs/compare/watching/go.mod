module certsource/watching

go 1.21
