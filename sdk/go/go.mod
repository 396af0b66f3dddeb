module mangrove.dev/sdk/go

go 1.22
