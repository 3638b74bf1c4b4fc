module certsource/resumption

go 1.21
