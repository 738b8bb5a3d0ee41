module github.com/meshferry/meshferry/sdk-lite/go

go 1.25.0
